"""Readers: scripts that open a file with the program that it is for, in a process without secateur."""
