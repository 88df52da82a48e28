"""Code that tests of several rooms share, because no test module imports another."""
