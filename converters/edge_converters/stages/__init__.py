"""The stages of a conversion: small functions over files, each with a record of its own."""
