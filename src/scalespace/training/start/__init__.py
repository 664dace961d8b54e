"""What is settled before the first step: precision, memory and disk, the first weights, what is told of the data."""
