"""What a service does with an exchange: one module a role."""
