"""How the bundled model was made: task maker, vocabulary, stages and logs. Not installed."""
