"""The harness: a worker process beside the session measures, raw samples come back, and statistics are drawn from them.

`edgedeploy.bench.spawn.bench` is the front door. What runs in the worker (``worker``, ``sampling``, ``telemetry``,
``environment``) imports the standard library and numpy and no more.
"""
