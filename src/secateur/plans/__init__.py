"""Plans: what is kept of each group, as a file that applies to any model of the architecture."""
