"""Work on several processes or machines, through Dask (`dask.distributed`, the extra `ggufkit[cluster]`).

Dask moves tasks and results, and gives those of a worker that died to the others. Here is what it leaves open: where a
cluster comes from (`opening`), who may work, how many tasks are on their way, what a person is told (`tasks`). Knows no
slabs and no models. Dask is imported when a cluster is asked for, and not before.
"""
