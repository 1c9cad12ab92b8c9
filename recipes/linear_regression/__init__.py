"""Linear regression of Section 3: the experiment of Figure 1, Lemma 1, Theorem 1, Corollary 1 and Proposition 1."""
