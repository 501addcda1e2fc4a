"""Every picture that is drawn; the only matplotlib."""
