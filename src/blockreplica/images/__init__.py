"""Where the bytes of an image are when they are not a plain file: behind NBD, or in a format that QEMU reads."""
