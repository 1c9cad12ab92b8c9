"""Handwritten digits: 1,797 real images that ship inside scikit-learn, so the recipe runs anywhere in a minute."""
