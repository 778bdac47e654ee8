"""What differs between databases: opening, lists of ids, upserts, the full-text index, copies, giving space back."""
