"""A long random run: everything is killed and every link breaks, and no row is lost."""
