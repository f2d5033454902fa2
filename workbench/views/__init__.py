"""What the notebooks call: for each of them its parameters and what its cells show."""
