"""The fairness suite: one clip edited into each profession, plain and asked for as a woman and as a man."""
