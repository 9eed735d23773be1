"""Plan before you rent: the real compilers of machines that need not be there, and a roofline."""
