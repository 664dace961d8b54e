from scalespace import FlexiUNet, ScaleSpacePipeline, ScaleSpaceScheduler
