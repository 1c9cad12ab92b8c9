"""Three small tables that ship inside scikit-learn: one regression on raw targets, two classifications."""
