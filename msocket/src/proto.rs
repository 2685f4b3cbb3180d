//! What a stack's path understands.
