"""Starts stages in processes of their own: as ranks on this machine or as a chain of Slurm jobs."""
