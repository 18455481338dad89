"""Mutants: named mistakes put into the source while it runs, to show that the simulation can find them."""
