"""What tests of several rooms share. No test module imports another: what two need is here."""
