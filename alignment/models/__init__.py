"""Loads models, packs what they read, and takes activations, scores and answers from them."""
