"""Quotes, bars and contracts: one line and one question at the gateway, however many ask, within what IBKR allows."""
