"""What flows through the house: frozen dataclasses, protocols and seeded draws. No networks, no solvers."""
