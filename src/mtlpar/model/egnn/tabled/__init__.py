"""Messages on a CPU where they are trained: along a table of edges, in memory of their own."""
