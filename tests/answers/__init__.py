"""Right answers and mutants for every checker: a module for each stage or lesson, with `RIGHT` and `MUTANTS`."""
