"""Says which policies are compared, searches their settings and trains each of them."""
