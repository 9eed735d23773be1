"""Reinforcement learning from human feedback: advantages, KL, rewards and the PPO iteration."""
