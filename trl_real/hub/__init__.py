"""Write dataset and model cards, and push datasets to the Hub."""
