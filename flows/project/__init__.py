"""The project as its parameters describe it: the table of stages, the graph of nodes, storage and resources."""
