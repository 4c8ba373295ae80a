"""Many answers, spread over several machines with Dask distributed.

The first machine owns the terminal and the files, and runs Dask's scheduler. Each machine runs one worker with one thread,
which loads the model once. A worker that dies or stalls loses nothing but time: its tasks go to the others.
"""
