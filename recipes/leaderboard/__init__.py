"""`adaloss leaderboard`: many optimizers on many tasks, each at its authors' default and over six decades."""
