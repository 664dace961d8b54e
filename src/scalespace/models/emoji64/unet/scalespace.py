from scalespace import FlexiUNet, PretrainedUNet, ScaleSpacePipeline, ScaleSpaceScheduler
