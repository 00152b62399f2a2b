"""Vocoders and what is needed around them: mel and F0 front-ends, copy-synthesis, losses and distances of signals. No data, no task.

    world, f0                            WORLD through pyworld (an extra); F0
    raw, pairing                         NII's raw float files; frames and samples made to go together
    mel, spectra                         log mel magnitudes, short-time spectra: what losses and distances share
    nsf                                  the neural source-filter family: draws, source, condition, filters; nsf_loss, nsf_weights
    fourier, timing, objective           the probe: from frames of any stride through an inverse STFT to samples; its losses
    copy_synthesis                       WORLD, Griffin-Lim, and mel as the upper bound of what mel frames can say
    distances                            how far a copy is from its original: cepstra, alignment, pitch

PESQ and STOI are in `headwater.separation.quality`.
"""
