"""How a finished model is spread over ranks: who owns which branch, and how gradients add up."""
