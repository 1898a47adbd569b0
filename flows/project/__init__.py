"""The project as its parameters describe it: the table of stages, the graph, a node's work, storage and resources."""
