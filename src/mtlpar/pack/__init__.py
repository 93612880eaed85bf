"""Stage pack: one shuffled ``.bp`` store per source and split."""
