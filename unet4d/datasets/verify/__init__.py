"""What is wrong with a dataset, all of it in one pass, and what its studies are like."""
