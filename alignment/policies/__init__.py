"""Says which policies are compared, ranks their samples, searches their settings and trains each of them."""
