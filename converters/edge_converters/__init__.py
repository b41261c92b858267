"""Turn trained models into bundles."""
