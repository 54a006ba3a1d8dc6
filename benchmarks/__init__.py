"""What is measured: throughput of every part, memory, and networks against each other."""
