"""The pages of this project, and the programs that write some of them."""
