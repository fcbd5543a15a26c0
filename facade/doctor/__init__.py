"""The doctor: everything between a person and IBKR, checked one after the other. Works with the daemon down."""
