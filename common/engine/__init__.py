"""Runs training, inference and evaluation case by case or step by step, and checks each before it starts."""
