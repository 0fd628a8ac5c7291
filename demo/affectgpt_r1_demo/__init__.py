"""The demo clips: drawn faces that speak written lines, made to see AffectGPT-R1 work as a whole.

A package of its own beside the library, which knows it only as what `affectgpt-r1 prepare demo`
calls: nobody who scores, trains or predicts on data of their own needs it.
"""
