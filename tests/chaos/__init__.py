"""The proof: real workers under faults, a ledger of what ran, and a checker that judges it."""
