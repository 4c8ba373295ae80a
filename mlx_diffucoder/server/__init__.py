"""`diffucode serve`: a server on this machine for editors and for scripts, with the interfaces that they know.

`work.py` and `filling.py` are what a request asks for, `engine.py` does it, `guard.py` and `bodies.py` check what arrives, and
one file an interface (`openai.py`, `llama.py`, `ollama.py`, `mercury.py`) says how it looks from outside. `app.py` has the table
of them.
"""
