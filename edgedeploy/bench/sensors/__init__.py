"""What is read around a run: clocks, heat, power, memory. Runs beside the worker, with the standard library alone."""
