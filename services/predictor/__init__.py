"""The predictor: answers with a trained model, quickly."""
