"""Fake against true news with an LSTM (Figures 2 and 4 of the paper), or real against made-up sentences anywhere."""
