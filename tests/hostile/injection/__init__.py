"""Posts that speak to the model: a user's words never become structure, for any model."""
