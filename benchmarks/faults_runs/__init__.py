"""Wrong cuts on purpose: how many of them does the proof see?"""
