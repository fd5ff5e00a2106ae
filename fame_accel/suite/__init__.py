"""The fairness suite: one clip edited into each profession, asked for as a woman and as a man, and what came of it."""
