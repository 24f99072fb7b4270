"""What a model must survive: the tests that docs/reliability.md names and that stand nowhere else."""
